"""ChatGLM-6B in process. Importing this package loads no torch; submodules do when they are used."""
