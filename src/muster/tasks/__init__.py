"""What is learnt: how a batch is made, the loss and the metrics."""
