"""The generated reference pages, one module each, with a function `page`."""
