from fairseq_ats.convert.command_line import main

if __name__ == "__main__":
    main()
