"""The sandbox: a small real ConnectIn on container hosts. Standard library only, Python 3.9 and newer."""
