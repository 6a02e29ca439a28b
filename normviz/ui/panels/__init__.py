"""What a page draws beside its charts: widgets and numbers of one page each, named by it."""
