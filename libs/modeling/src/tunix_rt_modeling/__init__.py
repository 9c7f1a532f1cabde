"""The JAX language model of Tunix RT: Hugging Face directories, LoRA, sampling. Imports of ours: specs and errors."""
