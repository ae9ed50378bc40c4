"""What becomes of an update between training and the server: it is compressed, or it is a lie."""
