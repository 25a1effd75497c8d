"""Calls that camserve makes to others: only to hosts that the operator allows, and only to
addresses that were checked.

A client that names a URL borrows the network position of this process. So a URL passes three gates:
it is spelt in one way only (`urls.py`), the operator's list names its host (`allow_list.py`), and
each address that the name resolves to is a public one or on that list (`connections.py`), which is
then the address that is connected to. Redirects pass the same gates.
"""
