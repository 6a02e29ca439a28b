"""Can concepts that were learned apart be merged in one model without retraining?"""

from normviz.experiments.modular_diffusion.frame_overlap import frame_overlap_figure
from normviz.ui import Exact, Maths, experiment_page

INTRO = r"""
A text-to-image model can be taught a new concept, your dog say, from a few pictures. One trains a small change of its
weights, an *adapter*, and the vector of a new word, the concept's *token*. Many people do this, each alone. Now
somebody wants a picture with **your** dog and **my** cat: both adapters have to live in **one** model.

Simply adding the adapters fails: your change also acts on my token. This is **crosstalk**. Averaging them leaves only
$1/N$ of each. *Gradient fusion* (Mix-of-Show) searches weights that answer like every adapter on its own inputs; this
takes time, and needs those inputs.

**Orthogonal Adaptation** prepares the adapters for it. An adapter is a product $A B^\top$: $B$ says which directions of
the input it reads, $A$ what it makes of them. $B$ is drawn **at random before training and stays fixed**; only $A$ is
trained. Two random choices of a few among many directions hardly overlap. So the adapters of two people who have never
met read different things, and can be added.

This page has a diffusion model that draws points in the plane instead of pictures. It has learned eight round spots.
Every user teaches it another shape with a token of $n$ numbers and adapters of rank $r$ in the layers that read the
token. These layers are what cross-attention is in a text-to-image model.

- **Orthogonal**: $B$ is $r$ random columns of an orthogonal matrix that all know (the paper's main choice).
  **Disjoint**: columns that no other concept has; somebody has to assign them. **Gaussian**: random numbers (the
  paper's other choice).
- **LoRA**: $A$ and $B$ are trained, the usual way.
- **Orthogonal, fixed token**: the token stays as it started. **Shared input**: the adapters sit in layers that read the
  point and the time, whose input all concepts share. Both are controls of ours.

No official code could be read. Rank, scale and λ of the paper are not confirmed; the choices here are our own.
"""

READING = r"""
**How to read it.** In *One summed model* every panel has the samples of one concept, all from the same weights and with
the concept's own token; grey is the concept's data. Compare it with *A model for each concept*, the same before
merging. Both ways of training learn the shapes alone. After the sum LoRA's shapes are squeezed and shifted.

**Distance.** The energy distance between samples and data: 0 for the same distribution. With these numbers of points
two samples of one distribution have about 0.006. *Alone* is what merging should keep. *Fused* equals it here for all
adapters that read the token: each layer sees a single token for each concept, and there are more dimensions than
tokens, so that one weight can answer all of them exactly. In a text-to-image model a layer has many inputs, and fusion
has to compromise; here it does so for the arms with a shared input.

**Crosstalk of the weights.** The size of $\Delta_i \Delta_j^\top$, relative to both. For *Orthogonal* it is 0 unless
two users have drawn a common column; then it is not small. For *Gaussian* it is never 0 and never large.

**Why the token is trained too.** Open *More charts*, *Why it works*. At first a token lies in a frame with a share of
$r/n$, as chance has it. The token's gradient passes through its own frame $B$, so the token **turns into its own
frame**, and the others' frames do not see this part. Preset *Fixed token*: what happens without it?

**Where it does not help.** Preset *Where it does not help*: in layers whose input is the same for all concepts, every
adapter acts on every concept, however orthogonal the weights are. In *Where it helps, and where not* such an arm stands
on the left (weights apart) and high up (concepts damaged).

**What cannot be shown here.** Faces, text, and a model with a billion weights. The paper judges by face recognition;
here a distance of points does it.
"""

MATHS = (
    Maths(
        "An adapter with a fixed frame",
        r"""
A layer $\ell(x) = \theta x$, $\theta$ $(\text{out} \times \text{in})$, gets the residual of concept $i$:

$$\Delta\theta_i = s\, A_i B_i^\top, \qquad A_i = 0 \text{ at first}, \quad B_i\ (n \times r) \text{ fixed}$$

$$Y = X \theta^\top + s\, (X B_i) A_i^\top, \qquad \frac{\partial L}{\partial A_i} = s\, G^\top (X B_i)$$

with $G = \partial L / \partial Y$. The layer is linear in what is trained. The input gets its gradient through
$B_i$ too; this is how a token turns.
""",
        "adapters/orthogonal_lora.py",
        ("OrthogonalLoRALinear.forward", "OrthogonalLoRALinear.delta_weight"),
    ),
    Maths(
        "The frames",
        r"""
A shared matrix $O_n$, uniform over the orthogonal ones (QR of a Gaussian matrix, signs of $R$ moved into $Q$), known to
all. Concept $i$ takes $r$ columns at random:

$$B_i = O_n[:, S_i], \qquad B_i^\top B_i = I, \qquad B_i^\top B_j = 0 \text{ if } S_i \cap S_j = \emptyset$$

For random columns and for Gaussian entries of variance $1/n$ alike

$$\mathbb{E}\,\lVert B_i^\top B_j \rVert_F^2 = \frac{r^2}{n}, \qquad
P(\text{no common column}) = \binom{n-r}{r} \Big/ \binom{n}{r} \approx e^{-r^2/n}$$
""",
        "adapters/orthogonal_frames.py",
        ("SharedOrthogonalBasis.matrix", "SharedOrthogonalBasis.sample", "draw_frame"),
    ),
    Maths(
        "Merging",
        r"""
$$\text{sum: } \theta + \sum_i \lambda_i \Delta\theta_i \qquad
\text{FedAvg: } \theta + \frac{1}{N} \sum_i \Delta\theta_i$$

Tokens stand side by side, nothing else is merged. Removing a concept is subtracting its residual.
""",
        "adapters/adapter_merging.py",
        ("merge_adapters",),
    ),
    Maths(
        "Gradient fusion, the rival",
        r"""
With recorded inputs $X_i$ of every concept, for each layer

$$W = \arg\min_W \sum_i \lVert X_i (\theta + \Delta\theta_i - W)^\top \rVert_F^2$$

by L-BFGS from $\theta$. Its limit, which the charts show ($C_i = X_i^\top X_i$):

$$W = \theta + \Big(\sum_i \Delta\theta_i C_i\Big) \Big(\sum_i C_i\Big)^{+}$$
""",
        "adapters/gradient_fusion.py",
        ("fused_delta",),
    ),
    Maths(
        "Crosstalk",
        r"""
By weights, and on a concept's own inputs:

$$\frac{\lVert \Delta_i \Delta_j^\top \rVert_F}{\lVert \Delta_i \rVert_F \lVert \Delta_j \rVert_F}, \qquad
\frac{\lVert X_i (\sum_{j \ne i} \lambda_j \Delta_j)^\top \rVert_F}{\lVert X_i \Delta_i^\top \rVert_F}$$

The first is 0 for disjoint frames, since $\Delta_i \Delta_j^\top = s^2 A_i (B_i^\top B_j) A_j^\top$. The second is not:
of an input without a preferred direction the share $r/n$ lies in the frame of every other concept.
""",
        "adapters/crosstalk.py",
        ("weight_crosstalk", "activation_crosstalk"),
    ),
    Maths(
        "The small diffusion model",
        r"""
Noise is added in $T = 40$ steps, $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \varepsilon$, and the
network $\varepsilon_\theta$ learns to tell it, with the loss
$\lVert \varepsilon - \varepsilon_\theta(x_t, t, \text{token}) \rVert^2$. The token scales and shifts each hidden layer:

$$(g, b) = W_l\, \text{token} + c_l, \qquad h \leftarrow \mathrm{SiLU}\big(h\,(1 + g) + b\big)$$

The $W_l$ are what is adapted.
""",
        "experiments/modular_diffusion/tuned_concepts.py",
        ("TunedConcepts.update", "TunedConcepts.samples"),
    ),
    Maths(
        "Energy distance",
        r"""
$$D(P, Q) = 2\,\mathbb{E}\lVert X - Y \rVert - \mathbb{E}\lVert X - X' \rVert - \mathbb{E}\lVert Y - Y' \rVert$$

with means over all pairs of 256 samples and 1,024 points of data.
""",
        "experiments/modular_diffusion/energy_distance.py",
        ("energy_distance", "mean_distance"),
    ),
)

EXACT = Exact(
    title="How often frames overlap",
    text="In closed form: $r$ random columns of $n$ for each of $N$ concepts. Even where two concepts seldom meet, "
    "many concepts have many pairs. The mean overlap is the same for random columns and for Gaussian frames.",
    figures=lambda: {"overlap": frame_overlap_figure()},
)

experiment_page("modular-diffusion", intro=INTRO, reading=READING, maths=MATHS, exact=EXACT)
