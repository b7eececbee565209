"""Mutation testing: small wrongs are done to the decisions, one at a time, and some unit test must
notice each.
"""
