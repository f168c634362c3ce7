"""Keras 3 models on TensorFlow, JAX or PyTorch, and `tf.Module`s: pure functions over shared memory."""
