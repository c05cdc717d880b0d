"""The world as it really is, behind the ports. No backend knows another."""
