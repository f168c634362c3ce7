"""A gluon model cut between the blocks of its `Sequential`s.

Each leaf block is a unit and is recorded alone, on handles of its own for what it takes: MXNet remembers where
gradients go in the array that was marked, so a parameter's shared array could serve one microbatch at a time only.
That gives the bits of the uncut model, hybridized or not: MXNet compiles a graph on a CPU without regrouping it, and
its backward pass visits a chain's blocks in reverse. Four things need care.

- A parameter that several units use: MXNet adds all its uses in one operation, whose order depends on their number.
  So uses travel one by one, and the stage that owns the parameter lets MXNet's own backward pass add them.
- Random numbers: nobody can read MXNet's generator. A stage that draws repeats the draws of the stages before it; a
  block that draws is recorded once and for all, also where the others are computed again.
- BatchNorm moves its running statistics in its backward pass, and the runtime wants them after the forward pass.
- Memory layouts: convolutions give arrays in a layout of oneDNN's, in which some blocks (BatchNorm) add in another
  order than in the plain layout that crosses. Cuts that show this are found by trying, and not offered.
"""
