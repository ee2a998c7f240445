"""The operations of the network: one protocol and what implements it on which device."""
