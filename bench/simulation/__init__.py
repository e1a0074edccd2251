# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A fleet on one machine: real checkouts and state directories, simulated Docker Engines."""
