"""What persists across batches: replay buffers and datasets of pairs."""
