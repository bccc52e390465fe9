"""`python -m cupscale`: the command line."""

from cupscale.cli import main

if __name__ == "__main__":
    main(prog_name="python -m cupscale")
