"""Problems of a spec: codes, places, and the text that shows them."""
