"""Who answers: a serve that is attached to or launched, and the dialect it speaks."""
