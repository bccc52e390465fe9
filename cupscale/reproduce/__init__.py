"""The paper's tables in one command: rows of methods on the same inputs, measured, in tables, plots and one page."""
