"""torch layers whose matrix products run on crossbars."""
