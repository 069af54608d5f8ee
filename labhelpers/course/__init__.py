"""What all chapters share: the chapters themselves, exercises, predictions and progress."""
