"""Prompts and concepts to start from, chosen by looking through many on the demo model for what shows something."""

WORKED_PROMPT = "I wash my hands with soap and"
"""Its strongest FFN neuron stands for water, and the strongest attention neuron carries it over from “soap”."""

PROMPTS = (
    "The capital of France is",
    "Thank you very",
    "North, south, east and",
    "The opposite of hot is",
    "The opposite of black is",
    "He was born in Paris and speaks fluent",
    "Water freezes at zero degrees",
    "import numpy as",
)

CONCEPTS = ("north south", "red, green, blue", "animals", "emotions", "mathematics", "python, -snake")
"""Of the best neuron's fifty stored tokens they cover 44 (the whole compass rose), 39 (the colours), 22, 25, 27; and
with snakes to be avoided, “python” is a programming language.
"""

WORDS = ("Paris", "music", "doctor", "green", "seven", "war", "Monday", "water")

NEURONS = ("L29.F1499", "L29.F864", "L25.F11", "L23.F1413", "L29.H1.N46")
"""Python; France; warm and cold; water; an attention neuron for French places."""

READY = {
    "capitals": tuple(
        (f"The capital of {country} is", f" {capital}")
        for country, capital in (
            ("France", "Paris"),
            ("Germany", "Berlin"),
            ("Italy", "Rome"),
            ("Spain", "Madrid"),
            ("Japan", "Tokyo"),
            ("Russia", "Moscow"),
            ("Greece", "Athens"),
            ("Austria", "Vienna"),
            ("Ireland", "Dublin"),
            ("Cuba", "Havana"),
        )
    ),
    "languages": tuple(
        (f"He was born in {city} and speaks fluent", f" {language}")
        for city, language in (
            ("Paris", "French"),
            ("Berlin", "German"),
            ("Rome", "Italian"),
            ("Madrid", "Spanish"),
            ("Tokyo", "Japanese"),
            ("Moscow", "Russian"),
            ("Athens", "Greek"),
            ("Warsaw", "Polish"),
            ("Beijing", "Mandarin"),
        )
    ),
    "opposites": tuple(
        (f"The opposite of {one} is", f" {other}")
        for one, other in (
            ("hot", "cold"),
            ("black", "white"),
            ("good", "bad"),
            ("big", "small"),
            ("up", "down"),
            ("light", "dark"),
            ("fast", "slow"),
            ("rich", "poor"),
            ("left", "right"),
        )
    ),
    "imports": (
        ("import numpy as", " np"),
        ("import pandas as", " pd"),
        ("import matplotlib.pyplot as", " plt"),
        ("import tensorflow as", " tf"),
    ),
}
"""Sets of prompts with their targets, each among the demo model's first two predictions, nearly always the first."""
