"""How the demonstration's base model is made: symbolic pages, their drawing, and the three stages of training."""
