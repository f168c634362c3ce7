"""Files of parameters: safetensors, hashed, written to one side and renamed."""
