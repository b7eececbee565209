"""The shared client: connections that survive a freeze. Stands alone and ships as the Lambda layer."""
