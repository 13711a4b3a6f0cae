"""Do generated titles name the target, a candidate, anything that exists, or something old?"""
