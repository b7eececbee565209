"""Reclaims the database connections that frozen Lambda functions leave behind."""
