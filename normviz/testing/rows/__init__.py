"""The rows of the contract table, one file per topic package."""
