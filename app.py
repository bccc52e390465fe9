"""The page, as a Space starts it."""

from cupscale import page

demo = page.build()

if __name__ == "__main__":
    page.launch(demo)
