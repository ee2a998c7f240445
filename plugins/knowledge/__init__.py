"""Answers from documents, with a citation: extractive, or by the model where there is one."""
