"""Studies of what leaves a model: releases judged by attackers who do not know of them, who do, and who see labels."""
