"""The five endpoints of the earlier system, as a thin router over today's services."""
