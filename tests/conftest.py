"""Make ``ansible_collections.connectin.rollback`` importable from the checkout, as Ansible itself does it."""

from __future__ import annotations

from pathlib import Path

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

CHECKOUT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    """Install Ansible's collection finder once, with the checkout's own collections tree in front."""
    _AnsibleCollectionFinder(paths=[str(CHECKOUT / "collections")])._install()
