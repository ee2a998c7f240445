"""The built-in plugins: each folder stands alone and can be copied as a start for your own."""
