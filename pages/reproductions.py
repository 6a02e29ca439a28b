"""Reproductions: the ledger of all claims."""

from normviz.ui.ledger import ledger_page

ledger_page()
