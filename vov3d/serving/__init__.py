"""Shows and serves models to others: a web page to try them."""
