"""Fine-tune or evaluate many LLM configs side by side on Kubernetes."""
