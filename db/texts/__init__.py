"""The texts that activate a neuron: stored beside a build, and the questions they answer."""
