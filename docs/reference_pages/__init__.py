"""What the generated reference pages say, one page a module, each with a function `page`."""
