"""Who answers: serves that are launched or attached to, and what differs between engines."""
