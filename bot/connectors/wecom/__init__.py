"""WeCom (企业微信): self-built applications, intelligent robots, customer service and group robots."""
