"""lorajax: where in a language model does each task live, and what do two tasks share?"""

__version__ = "0.1.0"
