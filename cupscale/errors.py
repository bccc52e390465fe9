"""The one error a person sees."""


class CupscaleError(ValueError):
    """Bad input. The message is one line: what was wrong, the limit, and the remedy."""


NO_MEMORY = "not enough memory: choose a smaller scale, or a smaller --tile and --batch 1"
