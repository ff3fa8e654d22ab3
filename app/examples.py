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

CONCEPTS = ("Python", "France", "music", "doctor", "green", "seven", "war", "cat", "Monday", "water")

NEURONS = ("L29.F1499", "L29.F864", "L25.F11", "L23.F1413", "L29.H1.N46")
"""Python; France; warm and cold; water; an attention neuron for French places."""
