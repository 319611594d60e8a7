"""Reference pages, written from the source when the site is built."""
