"""The neural attack: a small network learns from a shadow model what members' answers look like."""

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accupoison.audit.metric import TINY, check_members, checked
from accupoison.errors import InputError


def neural_scores(
    probs: ArrayLike,
    labels: ArrayLike,
    shadow_probs: ArrayLike,
    shadow_labels: ArrayLike,
    shadow_member: ArrayLike,
    *,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the probability of membership that a multilayer perceptron gives to sorted confidences.

    Trained on the logarithms of a shadow model's confidences in falling order (Shokri et al., S&P 2017; sorted, so that
    one network serves all classes, as in Salem et al., NDSS 2019).

    Args:
        probs: The target's probabilities [N, C].
        labels: The true classes [N]; checked, not used.
        shadow_probs: The shadow's probabilities [S, C].
        shadow_labels: Their classes [S].
        shadow_member: Membership in the shadow's training set, bool [S].
        seed: Of the network's weights and batches.

    Returns:
        Scores float64 [N] in [0, 1], higher for likelier members.

    Raises:
        InputError: Shapes or values are not as above, or the shadow has only members or only others.
    """
    from sklearn.exceptions import ConvergenceWarning  # here, because scikit-learn takes a second to load
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    member = np.asarray(shadow_member, dtype=bool)
    target, shadow = checked(probs, labels)[0], checked(shadow_probs, shadow_labels)[0]
    if member.shape != (len(shadow),) or target.shape[1] != shadow.shape[1]:
        raise InputError(
            f"probs {list(target.shape)}, shadow_probs {list(shadow.shape)} and shadow_member {list(member.shape)} do "
            "not fit; give [N, C], [S, C] and [S]"
        )
    check_members(member)
    network = make_pipeline(
        StandardScaler(), MLPClassifier((64, 32), early_stopping=len(member) >= 100, random_state=seed % 2**32)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 passes are enough for an attack
        network.fit(_features(shadow), member)
    return np.asarray(network.predict_proba(_features(target))[:, 1], dtype=np.float64)


def _features(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(np.maximum(np.sort(probs, axis=1)[:, ::-1], TINY**0.5)))
