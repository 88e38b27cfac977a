"""Read result files only; make tables, figures and pages of them."""
