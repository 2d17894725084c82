"""What the runs service knows of canvases and assets, from the events of their owner."""
