"""How the bundled model was made, to be run again. See README.md in this folder."""
