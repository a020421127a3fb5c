"""From a browser's request to the port of an interactive job."""
