"""The miniature experiment: does a teacher that knows many looks make a student robust to one?"""
