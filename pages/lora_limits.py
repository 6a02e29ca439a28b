"""When can low-rank adaptation be computed in almost linear time?"""

from normviz.experiments.lora_limits.limit_curves import critical_norm_figure, rank_figure, spectrum_figure
from normviz.ui import Exact, Maths, experiment_page

INTRO = r"""
**LoRA** trains a small correction $BA$ of a frozen weight $W$. That saves memory. It does not save the gradient: to
train adapters on the queries, keys and values of attention, the gradient must still pass through the softmax matrix
$f$, which has $L \times L$ entries for $L$ tokens.

The paper asks when this can be done in **almost linear time**. The idea: if all scores are small, $e^x$ is close to a
polynomial of low degree $g$. A polynomial of $\langle q, k\rangle$ is an inner product of *monomials* of $q$ and $k$.
So $f \approx U V^\top$ with as few columns as there are monomials, $m = \binom{d+g}{g}$, and every product of the
gradient can be taken without forming $f$.

The catch is the **norm** of queries and keys. Larger norms mean larger scores, a higher degree, more columns. At a norm
of about $\sqrt{\log L}$ the paper finds a threshold: below it an almost linear algorithm exists; above it none does,
under the strong exponential time hypothesis (SETH). The norms include the adapters: training itself can move you over
the line.

- **Exact** computes the whole matrix.
- **Low-rank, Taylor** and **Chebyshev** choose in each step the degree that the wanted error ε needs on the *radius*,
  a bound of all scores: $\tau \max\|q_i\| \max\|k_j\|$.
- **Degree kept** goes on with the degree that was enough at the start.

Here a small head (2 to 4 channels) learns what a teacher with larger norms does.
"""

READING = r"""
**How to read it.** *Training walks towards the limit* has the norm to the right and the columns that the factors need
upwards. The thin staircases say how many columns a norm needs. Each dot is an arm: the dots begin at the left and walk
up their staircase as the adapters grow. The horizontal line is $L$ columns, where the factors are as large as $f$
itself; the vertical one is $\sqrt{\log L}$. *Degree kept* walks to the right at one height, below its staircase: it no
longer does what it promised. The ring of *Exact* shows what its norms would need.

**Two curves.** *Training loss*: the lines of exact and low-rank gradients lie on each other. This is the point, and no
fault of the chart. Adam forgives much: even the degree that is kept, with a gradient that is wrong by some percent,
trains nearly alike.

**Cost.** Broken lines are measured times, solid ones counted operations in matrix products (monomials, exponentials and
memory are not counted). Counts are exact and repeat everywhere. Times do not: trust their ratios in one run only. Short
sequences are dominated by overhead; exponents are fitted at the longest ones. Degree 4 is used at every length.

**The certificate** is what can be promised without looking at $f$. It is a worst case over all scores up to the radius,
and stands many orders of magnitude above the error that is really made. Where it is missing nothing is certified: the
polynomial's largest error is 1 or more. *Largest error of the polynomial*, under *More charts*, is smaller for
Chebyshev at every degree, and its gradients are worse nevertheless. The radius is two to four times too large as a
rule, most scores lie near zero, and there Taylor is far better.

**What cannot be shown.** That *no* algorithm is faster above the threshold is a theorem that holds if SETH does.
Hardness itself cannot be measured. All these charts show the cost of **this** algorithm, never a lower bound; above the
line another algorithm might do better, as far as any experiment can tell.

**What is small here.** $L^{1+o(1)}$ is no promise for practice: a head has 64 channels or more, and degree 4 then means
814,385 columns. Look at *A wider head*: four channels are already hard. Float64 ends at a radius of about 16, because
large powers cancel.
"""

EXACT = Exact(
    "The limit",
    r"""
The charts follow their sliders while you drag; nothing is run. They show what **this algorithm** needs. That no other
algorithm does better above the threshold is a theorem under SETH, which no chart can show.

Γ is the largest entry of queries and keys. Scores are then at most $\tau d\,\Gamma^2$: $\Gamma^2$ at the theory's scale
$1/d$, $\sqrt d\,\Gamma^2$ at the usual $1/\sqrt d$.
""",
    lambda: {"rank": rank_figure(), "columns": spectrum_figure(), "critical": critical_norm_figure()},
)

MATHS = (
    Maths(
        "The exact gradient",
        r"""
$$f = D^{-1}\exp(\tau Q K^\top), \quad O = fV, \quad \text{loss} = \tfrac12\|O - Y\|_F^2, \quad c = O - Y$$

$$q = cV^\top, \quad r_j = \textstyle\sum_l f_{jl}q_{jl}, \quad p = f * q - \operatorname{diag}(r)\, f$$

$$dQ = \tau\, pK, \quad dK = \tau\, p^\top Q, \quad dV = f^\top c$$

With $G = dQ^\top X$ the adapter of $W + sBA$ gets $dA = s B^\top G$ and $dB = s\, G A^\top$. Only $f$, $q$ and $p$ have
$L \times L$ entries. At the start $B = 0$, so that $dA = 0$.
""",
        "adapters/attention_gradients.py",
        ("_exact", "_adapter_gradients"),
    ),
    Maths(
        "A polynomial near exp",
        r"""
$$P(x) = \sum_{i \le g} c_i x^i, \qquad \varepsilon = \max_{|x| \le R} |P(x)\,e^{-x} - 1|, \qquad R = \tau \max_i\|q_i\|
\max_j\|k_j\|$$

Taylor: $c_i = 1/i!$. Chebyshev: the interpolant in the roots of $T_{g+1}(x/R)$. The degree is the smallest whose ε is
at most the wanted one. For ε = 0.001 and R = 0.5, 1, 2, 4, 8 that is 4, 6, 10, 17, 31 for Taylor and 3, 5, 7, 11, 20
for Chebyshev.
""",
        "adapters/exp_polynomial.py",
        ("required_degree", "_relative_error"),
    ),
    Maths(
        "Monomials as columns",
        r"""
$$\langle a, b\rangle^i = \sum_{|m| = i} \frac{i!}{m!}\, a^m b^m$$

so $P(\tau q^\top k) = \langle \Psi(q), \Phi(k) \rangle$ with $\Phi(k)_m = k^m$ and all coefficients in $\Psi$. There
are $\binom{d+g}{g}$ monomials. After division by its row sums $\Psi(Q)\Phi(K)^\top$ is within
$2\varepsilon/(1-\varepsilon)$ of $f$, entry by entry.
""",
        "adapters/monomial_features.py",
        ("monomials", "unchecked_factors"),
    ),
    Maths(
        "The chain without an L × L matrix",
        r"""
$$f * (cV^\top) = \sum_j \operatorname{diag}(c_j)\, f \operatorname{diag}(v_j)$$

so with $f \approx UV_1^\top$ every term is $c_j * U(V_1^\top (v_j * K))$: $O(L\,m\,d^2)$ operations, $O(L\,m)$ memory.
""",
        "adapters/_chained_products.py",
        ("attention_gradients",),
    ),
    Maths(
        "The certificate",
        r"""
With $\delta = 2\varepsilon/(1-\varepsilon)$, $M = \max|V|$, $N = \max_l\|V_l\|_1$ and $Q' = \max|c|\,N + \delta M N$:

$$\max|\tilde G_Q - G_Q| \;\le\; \tau \max_a \textstyle\sum_j |X_{ja}| \;\delta\,(3Q' + 2MN)\,\max|K|$$

Derived for this library from the definitions; the paper proves that such errors can be made small.
""",
        "adapters/lora_limits.py",
        ("gradient_error_bound",),
    ),
    Maths(
        "The threshold",
        r"""
Paper (from memory of its statement), with $d = O(\log L)$, τ = 1/d and entries of queries and keys below Γ:

- $\Gamma = o(\sqrt{\log L})$: all adapters' gradients in time $L^{1+o(1)}$ with error $1/\mathrm{poly}(L)$;
- $\Gamma = C\sqrt{\log L}$, $C$ large enough: no algorithm in $O(L^{2-\delta})$ for any $\delta > 0$, under SETH.

For this algorithm the limit is where its factors have $L$ columns:
$R^* = \max\{R : \binom{d+g(R,\varepsilon)}{d} < L\}$.
""",
        "adapters/lora_limits.py",
        ("critical_radius",),
    ),
)

experiment_page("lora-limits", intro=INTRO, reading=READING, maths=MATHS, exact=EXACT)
