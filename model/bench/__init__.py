"""`glmbot model bench`: how fast the model is here, beside what this machine could do and beside peers."""
