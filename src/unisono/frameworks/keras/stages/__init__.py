"""A Keras model cut between its layers, on TensorFlow.

A stage's passes are two halves of one graph: forward and backward pass are traced together, as in the uncut model,
and the graph is parted at the tensors that the backward half needs of the forward half. So both have the uncut
model's operations and the tape's order of additions, nothing is computed twice, and no tape outlives the tracing.
The bits are the uncut ones because graphs run as traced (see `backends.graphs`).
"""
